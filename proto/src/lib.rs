//! The wire: Mesos v1 messages, Allotment's own services, and the way from them to pure types.
//!
//! - [`mesos`]: Mesos' v1 vocabulary, scheduler and executor API, wire-compatible with Mesos 1.11.
//! - [`allot`]: the gRPC services between Allotment's processes.
//! - [`json`]: Mesos messages as JSON, the way Mesos writes and reads it; [`recordio`]: streams.
//! - [`session`]: the metadata of an agent's session.
//! - [`convert`]: checked conversions between wire resources and [`allotment_types`].
//!
//! What the messages mean is written in the `.proto` files beside this crate.

#[allow(
    clippy::all,
    clippy::cast_possible_truncation,
    clippy::or_fun_call,
    missing_debug_implementations,
    unreachable_pub,
    reason = "generated"
)]
mod generated {
    pub mod mesos {
        pub mod v1 {
            tonic::include_proto!("mesos.v1");
            pub mod scheduler {
                tonic::include_proto!("mesos.v1.scheduler");
            }
            pub mod executor {
                tonic::include_proto!("mesos.v1.executor");
            }
            pub mod agent {
                tonic::include_proto!("mesos.v1.agent");
            }
        }
    }
    pub mod allot {
        pub mod v1 {
            tonic::include_proto!("allot.v1");
        }
    }
}

pub mod convert;
pub mod json;
pub mod recordio;
pub mod session;

pub use generated::allot::v1 as allot;
pub use generated::mesos::v1 as mesos;
pub use generated::mesos::v1::agent;
pub use generated::mesos::v1::executor;
pub use generated::mesos::v1::scheduler;

/// The largest message that any Allotment service accepts, in bytes.
///
/// A launch of a few thousand tasks fits; a hostile peer cannot make a process allocate more.
pub const MESSAGE_LEN_MAX: usize = 16 * 1024 * 1024;

/// Software version, as every role reports it: dotted integers, which Mesos clients parse.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
