//! trivet-web

fn main() {
    eprintln!("trivet-web: not built yet");
    std::process::exit(70);
}
