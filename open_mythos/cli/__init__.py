"""From the command line to one call: arguments in, work done elsewhere, results printed."""
