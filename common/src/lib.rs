//! What the d-utils share. A tool depends on this crate and never on another tool; something enters it only when a second
//! tool needs it, but for [`sys`], which holds all unsafe code of the suite.

pub mod beneath;
pub mod check;
pub mod container;
pub mod digest;
pub mod exit;
pub mod idmap;
pub mod image;
pub mod layout;
pub mod options;
pub mod output;
pub mod platform;
pub mod protected;
pub mod report;
pub mod runtime;
pub mod signal;
pub mod sys;
pub mod userns;
