"""Options of both parts: declared once, read from flags, variables and moorline.toml."""
