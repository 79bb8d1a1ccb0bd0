//! The lab's supervisor as a program of its own, for tests and tools that are not `tulle`
//! themselves.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some("--rig"), Some(rig), None) = (
        arguments.next().as_deref(),
        arguments.next(),
        arguments.next(),
    ) else {
        eprintln!("usage: tulle-lab-supervisor --rig NAME");
        return ExitCode::from(2);
    };
    match tulle_lab::supervise(&rig) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", tulle_lab::describe(&error));
            ExitCode::FAILURE
        }
    }
}
