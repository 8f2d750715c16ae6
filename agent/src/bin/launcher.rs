//! The launcher by itself, as tests and benchmarks of this crate start it: the same as
//! `allot launcher`.

fn main() -> std::process::ExitCode {
    let mut args = std::env::args().skip(1);
    let fd = match (args.next().as_deref(), args.next(), args.next()) {
        (Some("launcher"), Some(flag), Some(fd)) if flag == "--socket-fd" => fd.parse().ok(),
        _ => None,
    };
    let Some(fd) = fd else {
        return std::process::ExitCode::from(2);
    };
    match u8::try_from(allotment_agent::launcher_main(fd)) {
        Ok(status) => std::process::ExitCode::from(status),
        Err(_) => std::process::ExitCode::FAILURE,
    }
}
