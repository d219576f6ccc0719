//! Control groups v1, v2 and the hybrid of both, behind one type.

mod error;
mod limits;

pub use error::CgroupError;
pub use limits::{Limits, Throttle};
