//! Parsers and formatters of decimals, durations and byte sizes, shared by the configuration file, the
//! driver parameters, the command line and the runner.

mod byte_size;
mod decimal;
mod duration;

pub use byte_size::{format_byte_size, parse_byte_size, parse_signed_byte_size};
pub use decimal::{Decimal, Rounding};
pub use duration::{SignedDuration, parse_duration, parse_signed_duration};
