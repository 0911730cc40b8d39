"""Other runtimes: a network as a graph, as an ONNX file, or with weights of few bits."""
