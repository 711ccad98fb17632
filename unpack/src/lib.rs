//! Unpack a container image into a plain directory, without root.
