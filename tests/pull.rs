//! d-pull(1): references, tokens, credentials, retries, the cache; against docker-registry and misbehaving servers.
