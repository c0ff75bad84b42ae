"""Where people operate the link: the command line."""
