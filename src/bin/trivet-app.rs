//! trivet-app

fn main() {
    eprintln!("trivet-app: not built yet");
    std::process::exit(70);
}
