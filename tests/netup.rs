//! d-netup(1): slirp4netns and pasta, forwards, lifetimes.
