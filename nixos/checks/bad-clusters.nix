# Every mistake in a cluster is refused, in the words that tell what to do about it. Returns the expectations that failed.
{ lib, evaluate }:
let
  inherit (lib) mkForce;
  cluster = change: { services.trivet.cluster = change; };
  nodes = change: cluster { nodes = change; };

  cases = {
    duplicate-address = {
      change = nodes { node3.address = mkForce "10.77.0.12"; };
      says = "node2 and node3 have the same address 10.77.0.12; give each node its own";
    };
    address-that-is-none = {
      change = nodes { node2.address = mkForce "10.77.0.300"; };
      says = "node node2 has the address \"10.77.0.300\", which is not an IPv4 address";
    };
    unknown-role = {
      change = nodes {
        node2.roles = [
          "app"
          "databse"
          "database"
        ];
      };
      says = "node node2 has the unknown role \"databse\"; the roles are balancer, app, database, monitoring";
    };
    node-without-role = {
      change = nodes { node2.roles = [ ]; };
      says = "node node2 has no role; give it at least one of balancer, app, database, monitoring";
    };
    no-database = {
      change = nodes (
        lib.genAttrs [ "node1" "node2" "node3" ] (_: {
          roles = [
            "balancer"
            "app"
          ];
        })
      );
      says = "no node has the role database, so there would be nothing to read or write; give it to three nodes";
    };
    two-database-members = {
      change = nodes { node3.roles = [ "app" ]; };
      says = "2 nodes have the role database (node1 and node2); two survive the failure of none, so give the role to one more node";
    };
    no-balancer = {
      change = nodes (
        lib.genAttrs [ "node1" "node2" "node3" ] (_: {
          roles = [
            "database"
            "app"
          ];
        })
      );
      says = "no node has the role balancer, so nobody would hold the virtual address";
    };
    no-app = {
      change = nodes (
        lib.genAttrs [ "node1" "node2" "node3" ] (_: {
          roles = [
            "balancer"
            "database"
          ];
        })
      );
      says = "no node has the role app, so nothing would serve the site";
    };
    virtual-address-of-a-node = {
      change = cluster { virtualAddresses = mkForce [ "10.77.0.12" ]; };
      says = "the virtual address 10.77.0.12 is node node2's own address; choose a free one";
    };
    virtual-address-with-a-prefix = {
      change = cluster { virtualAddresses = mkForce [ "10.77.0.50/24" ]; };
      says = "the virtual address \"10.77.0.50/24\" is not an IPv4 address (write it without a prefix length)";
    };
    no-virtual-address = {
      change = cluster { virtualAddresses = mkForce [ ]; };
      says = "the cluster has no virtual address; set services.trivet.cluster.virtualAddresses";
    };
    machine-outside-the-cluster = {
      change.services.trivet.node = "node9";
      says = "this machine is \"node9\", but the cluster has only node1, node2, node3; set services.trivet.node or networking.hostName";
    };
    secrets-in-the-store = {
      change.services.trivet.secretsDirectory = "${builtins.storeDir}/00000000000000000000000000000000-secrets";
      says = "services.trivet.secretsDirectory is in the store";
    };
    secrets-from-the-source-tree = {
      # What people write first. A path in a flake is a path in the store.
      change.services.trivet.secretsDirectory = /. + "${builtins.storeDir}/00000000000000000000000000000000-source/secrets";
      says = "services.trivet.secretsDirectory is in the store";
    };
    secrets-at-a-relative-path = {
      change.services.trivet.secretsDirectory = "secrets";
      says = "services.trivet.secretsDirectory is \"secrets\", which is not an absolute path";
    };
    domain-that-is-none = {
      change = cluster { domain = mkForce "https://www.foobar.com/"; };
      says = "the domain \"https://www.foobar.com/\" is not a host name";
    };
    administrators-by-name = {
      change = cluster { administrators = [ "laptop.example" ]; };
      says = "the administrators' address \"laptop.example\" is neither an IPv4 address nor a network";
    };
    node-name-that-is-none = {
      change = nodes { Node_4 = { address = "10.77.0.14"; roles = [ "app" ]; }; };
      says = "node \"Node_4\" is not a host name; use small letters, digits and hyphens";
    };
  };

  refused =
    name: { change, says }:
    let
      said = evaluate.problems change;
    in
    lib.optional (!lib.any (lib.hasInfix says) said) (
      "${name}: expected the refusal\n    ${says}\n  but the modules said\n    "
      + (if said == [ ] then "nothing" else lib.concatStringsSep "\n    " said)
    );

  good = evaluate.problems { };
in
lib.optional (good != [ ]) "the example cluster itself is refused: ${lib.concatStringsSep "; " good}"
++ lib.concatLists (lib.mapAttrsToList refused cases)
