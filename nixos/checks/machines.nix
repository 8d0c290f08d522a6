# What follows from settings of the machine that are not Trivet's. Returns the expectations that failed.
{ lib, evaluate }:
let
  balancer = extra: (evaluate.node "node1" extra).config.services.trivet.balancer.settings;
  listens = extra: (balancer extra).http.listen ++ (balancer extra).https.listen;
  expect = what: good: lib.optional (!good) "machines: ${what}";

  # keepalived's unit, by what has a switch reload it, and by all that has a switch restart it.
  keepalived =
    extra:
    let
      lines = lib.splitString "\n" (evaluate.node "node1" extra).config.systemd.units."keepalived.service".text;
      of = lib.partition (lib.hasPrefix "X-Reload-Triggers=") lines;
    in
    {
      reloads = of.right;
      restarts = of.wrong;
    };
  before = keepalived { };
  slower = keepalived { services.trivet.failover.advertInterval = "0.5"; };
in
expect "a balancer listens on IPv4 and IPv6" (
  listens { } == [
    "[::]:80"
    "[::]:443"
  ]
)
++ expect "a balancer of a machine without IPv6 listens on IPv4 alone" (
  listens { networking.enableIPv6 = false; } == [
    "0.0.0.0:80"
    "0.0.0.0:443"
  ]
)
++ expect "another configuration of keepalived has a switch reload it, and not restart it" (
  before.reloads != slower.reloads && before.restarts == slower.restarts
)
