"""Problems whose difficulty is one number and whose answers are exact, drawn without end."""
