//! trivet-balancer

fn main() {
    eprintln!("trivet-balancer: not built yet");
    std::process::exit(70);
}
