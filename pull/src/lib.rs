//! Pull container images from a registry into an OCI image layout.
