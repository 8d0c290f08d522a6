//! trivet-keeper

fn main() {
    eprintln!("trivet-keeper: not built yet");
    std::process::exit(70);
}
