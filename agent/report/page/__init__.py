"""The status page: an overview as one HTML document, and its parts by themselves. Pure."""
