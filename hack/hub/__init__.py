"""A hub on loopback that serves folders as models, with the headers, redirects and faults of the real one."""
