//! The `optin-onnx` program.

fn main() -> std::process::ExitCode {
    optin_onnx::cli::main()
}
