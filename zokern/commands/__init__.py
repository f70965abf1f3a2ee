"""The commands of `zokern`, one a file; `zokern.cli` puts them together."""
