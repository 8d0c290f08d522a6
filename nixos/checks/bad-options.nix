# Options beside the cluster that would break a node are refused too. All of them at once, in one machine: each must be told.
# Returns the expectations that failed.
{ lib, evaluate }:
let
  node = evaluate.node "node1" (
    { pkgs, ... }:
    {
      services.mysql.ensureDatabases = [ "shop" ];
      services.mysql.initialScript = "/var/lib/shop.sql";
      services.mysql.replication.role = "master";
      services.trivet.app.environment.DATABASE_WRITE_URL = "mysql://shop:secret@127.0.0.1:6446/shop";
      services.trivet.app.settings.listen = "127.0.0.1:9000";
      services.keepalived.enable = true;
      services.trivet.balancer.tls.ticketSecret = pkgs.writeText "ticket.secret" "0123";
      services.trivet.balancer.certificates = [
        {
          certificate = "/var/lib/acme/shop/fullchain.pem";
          key = pkgs.writeText "shop.key" "the key";
        }
      ];
    }
  );
  said = map (a: a.message) (lib.filter (a: !a.assertion) node.config.assertions);
  expected = [
    "services.mysql.ensureDatabases knows nothing of"
    "services.mysql.initialScript knows nothing of"
    "unset services.mysql.replication.role"
    "services.trivet.app.environment sets DATABASE_WRITE_URL, whose password would be in the store"
    "node1's web tier sends requests to 127.0.0.1:8081, but the app listens on 127.0.0.1:9000"
    "services.trivet.balancer.tls.ticketSecret is in the store"
    "the key of a certificate of services.trivet.balancer.certificates is in the store"
    "node node1 runs keepalived for the virtual address"
  ];
in
map (words: "expected the refusal \"${words}\", but the modules said: ${lib.concatStringsSep "; " said}") (
  lib.filter (words: !lib.any (lib.hasInfix words) said) expected
)
