"""Labels and photos drawn: contact sheets, thumbnails and pages for a browser."""
