"""A CMS API on Django and SQLite: registration, posts and tags, with the queries of v1 and those of v2."""
