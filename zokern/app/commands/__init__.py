"""The commands of `zokern`, one a file; `zokern.app.cli` puts them together."""
