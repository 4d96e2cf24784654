//! The binary `orchestrator-trainer`. Next: command_line.rs.

fn main() -> std::process::ExitCode {
    trainer::run_command_line()
}
