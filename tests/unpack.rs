//! d-unpack(1): sources, layers, maps, containers made, replaced and removed.
