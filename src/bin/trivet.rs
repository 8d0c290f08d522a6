//! trivet

fn main() {
    eprintln!("trivet: not built yet");
    std::process::exit(70);
}
