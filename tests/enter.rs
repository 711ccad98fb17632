//! d-enter(1): namespaces, mounts, users, capabilities, terminals, signals, exit codes.
