"""The verbs of the command line, one a file: options in, one call, an exit code; heavy imports stay inside."""
