"""What a model is, as plain checked data: fields, presets and the costs that follow from them."""
