# Trivet on NixOS. One concern per file, its options beside what they configure. Every node of a cluster imports this
# module with the same `services.trivet.cluster`; what a node runs follows from its roles there.
{
  imports = [
    ./cluster.nix
    ./common.nix
    ./machine.nix
    ./secrets.nix
    ./balancer.nix
    ./sites.nix
    ./tcp.nix
    ./gateway.nix
    ./web.nix
    ./limits.nix
    ./app.nix
    ./database.nix
    ./keeper.nix
    ./backup.nix
    ./failover.nix
    ./firewall.nix
    ./monitoring.nix
  ];
}
