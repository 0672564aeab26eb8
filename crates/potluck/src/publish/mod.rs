//! Publishing: from a directory to a release.

pub(crate) mod scan;
