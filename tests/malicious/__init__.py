"""Files made to do harm, and a process to open each in; they are made when the tests run, and never committed."""
