//! Connect a network namespace through slirp4netns.
