"""A market-signal API on Flask: two features, each on its way from the legacy engine to the new one."""
