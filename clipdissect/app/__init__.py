"""The command line: experiments, commands, configs and error messages."""
