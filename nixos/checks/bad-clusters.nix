# Every mistake in a cluster is refused, and every weakness told, in the words that say what to do about it. Returns the
# expectations that failed.
{ lib, evaluate }:
let
  inherit (lib) mkForce;
  cluster = change: { services.trivet.cluster = change; };
  nodes = change: cluster { nodes = change; };
  node2 = change: nodes { node2 = change; };
  address = a: node2 { address = mkForce a; };
  roles = of: nodes (lib.mapAttrs (_: roles: { inherit roles; }) of);
  all = given: roles (lib.genAttrs [ "node1" "node2" "node3" ] (_: given));
  interface = i: node2 { interface = i; };
  virtual = addresses: cluster { virtualAddresses = mkForce addresses; };
  administrators = list: cluster { administrators = mkForce list; };
  domain = d: cluster { domain = mkForce d; };
  group = g: cluster { groupName = mkForce g; };
  secrets = value: { services.trivet.secretsDirectory = value; };
  store = name: "${builtins.storeDir}/00000000000000000000000000000000-${name}";
  long = lib.concatStrings (lib.genList (_: "a") 64);

  # name = [ what is changed, what must be said ]
  refusals = {
    # Nodes
    duplicate-address = [ (nodes { node3.address = mkForce "10.77.0.12"; }) "node2 and node3 have the same address 10.77.0.12; give each node its own" ];
    address-that-is-none = [ (address "10.77.0.300") "node node2 has the address \"10.77.0.300\", which is not an IPv4 address" ];
    address-of-ipv6 = [ (address "fd00::12") "node node2 has the address \"fd00::12\", which is not an IPv4 address" ];
    address-zero = [ (address "0.0.0.0") "node node2 has the address 0.0.0.0, no address of a machine" ];
    address-loopback = [ (address "127.0.0.1") "node node2 has the address 127.0.0.1, a loopback address" ];
    address-multicast = [ (address "224.0.0.18") "node node2 has the address 224.0.0.18, a multicast address" ];
    address-broadcast = [ (address "255.255.255.255") "node node2 has the address 255.255.255.255, a reserved or broadcast address" ];
    interface-of-two-lines = [ (interface "eth0\n  priority 1") "which is no name of a network interface; `ip -br link`" ];
    interface-for-a-shell = [ (interface "eth0; rm -rf /") "node node2 has the interface \"eth0; rm -rf /\", which is no name" ];
    interface-too-long = [ (interface "enp0s31f6u1u2u3c2") "node node2 has the interface \"enp0s31f6u1u2u3c2\", which is no name" ];
    node-name-that-is-none = [
      (nodes { Node_4 = { address = "10.77.0.14"; roles = [ "app" ]; }; })
      "node \"Node_4\" is not a host name; use small letters, digits and hyphens"
    ];
    machine-outside-the-cluster = [
      { services.trivet.node = "node9"; }
      "this machine is \"node9\", but the cluster has only node1, node2, node3; set services.trivet.node or networking.hostName"
    ];

    # Roles
    unknown-role = [
      (roles { node2 = [ "app" "databse" "database" ]; })
      "node node2 has the unknown role \"databse\"; the roles are balancer, app, database, monitoring"
    ];
    node-without-role = [ (roles { node2 = [ ]; }) "node node2 has no role; give it at least one of balancer, app, database, monitoring" ];
    no-database = [ (all [ "balancer" "app" ]) "no node has the role database, so there would be nothing to read or write; give it to three nodes" ];
    two-database-members = [
      (roles { node3 = [ "app" ]; })
      "2 nodes have the role database (node1 and node2); two survive the failure of none, so give the role to one more node"
    ];
    no-balancer = [ (all [ "database" "app" ]) "no node has the role balancer, so nobody would hold the virtual address" ];
    no-app = [ (all [ "balancer" "database" ]) "no node has the role app, so nothing would serve the site" ];

    # The site and its addresses
    virtual-address-of-a-node = [ (virtual [ "10.77.0.12" ]) "the virtual address 10.77.0.12 is node node2's own address; choose a free one" ];
    virtual-address-with-a-prefix = [ (virtual [ "10.77.0.50/24" ]) "the virtual address \"10.77.0.50/24\" is not an IPv4 address (write it without a prefix length)" ];
    virtual-address-multicast = [ (virtual [ "239.1.1.1" ]) "the virtual address 239.1.1.1 is a multicast address" ];
    no-virtual-address = [ (virtual [ ]) "the cluster has no virtual address; set services.trivet.cluster.virtualAddresses" ];
    domain-that-is-a-url = [ (domain "https://www.foobar.com/") "the domain \"https://www.foobar.com/\" is not a host name" ];
    domain-that-is-an-address = [ (domain "10.77.0.50") "the domain \"10.77.0.50\" is not a host name" ];
    domain-with-a-long-label = [ (domain "${long}.com") "is not a host name; write it as in the address bar" ];
    domain-too-long = [ (domain (lib.concatStringsSep "." (lib.genList (_: "a234567") 32) + ".com")) "is not a host name; write it as in the address bar" ];
    group-name-missing = [ (group "") "the cluster has no name for its database group; put the output of `uuidgen`" ];
    group-name-in-capitals = [ (group "6F0B1E6E-7D0A-4B7E-9F43-0A77A1AB0001") "which is not a UUID in small letters; `uuidgen` makes one" ];

    # Administrators
    administrators-by-name = [ (administrators [ "laptop.example" ]) "the administrators' address \"laptop.example\" is neither an IPv4 address nor a network" ];
    administrators-with-host-bits = [ (administrators [ "10.0.0.5/8" ]) "the administrators' network 10.0.0.5/8 has bits beyond its prefix; write 10.0.0.0/8, or 10.0.0.5/32 for one machine" ];
    administrators-that-overlap = [ (administrators [ "10.1.0.0/16" "10.0.0.0/8" ]) "the administrators' network 10.0.0.0/8 contains 10.1.0.0/16; name the larger alone" ];
    administrators-twice = [ (administrators [ "10.1.0.1" "10.1.0.1" ]) "the administrators' network 10.1.0.1 stands twice in the list" ];

    # Secrets
    secrets-in-the-store = [ (secrets (store "secrets")) "services.trivet.secretsDirectory is in the store" ];
    # What people write first. A path in a flake is a path in the store.
    secrets-from-the-source-tree = [ (secrets (/. + store "source/secrets")) "services.trivet.secretsDirectory is in the store" ];
    secrets-as-a-path = [ (secrets /some/path) "services.trivet.secretsDirectory is written as a path, which Nix would copy into the store" ];
    secrets-behind-a-dot = [ (secrets "/nix/./store/abc") "services.trivet.secretsDirectory is \"/nix/./store/abc\"; systemd reads" ];
    secrets-at-a-relative-path = [ (secrets "secrets") "services.trivet.secretsDirectory is \"secrets\", which is not an absolute path" ];
    secrets-with-a-space = [ (secrets "/var/lib/my secrets") "services.trivet.secretsDirectory is \"/var/lib/my secrets\"; systemd reads spaces" ];
    secrets-with-a-colon = [ (secrets "/var/lib/a:b") "services.trivet.secretsDirectory is \"/var/lib/a:b\"; systemd reads spaces" ];
    secrets-with-a-percent-sign = [ (secrets "/var/lib/%n") "services.trivet.secretsDirectory is \"/var/lib/%n\"; systemd reads spaces" ];
    secrets-at-the-root = [ (secrets "/") "services.trivet.secretsDirectory is \"/\"; systemd reads spaces" ];
  };

  warnings = {
    no-administrators = [ (administrators [ ]) "the cluster has no administrators, so the firewall closes SSH" ];
    one-balancer = [
      (roles { node2 = [ "app" "database" ]; node3 = [ "app" "database" ]; })
      "only node node1 has the role balancer; without it nobody reaches the site"
    ];
    one-database-member = [
      (roles { node2 = [ "balancer" "app" ]; node3 = [ "balancer" "app" ]; })
      "only node node1 has the role database; without it nothing is read or written"
    ];
    one-node = [ (cluster { nodes = mkForce { node1.address = "10.77.0.11"; }; }) "the cluster has one node; nothing of it survives" ];
    role-twice = [ (roles { node2 = [ "app" "app" "balancer" "database" ]; }) "node node2 has the role app twice" ];
  };

  expect =
    kind: name: case:
    let
      said = (evaluate.cluster (lib.elemAt case 0)).${kind};
      words = lib.elemAt case 1;
    in
    lib.optional (!lib.any (lib.hasInfix words) said) (
      "${name}: expected among the ${kind}\n    ${words}\n  but the modules said\n    "
      + (if said == [ ] then "nothing" else lib.concatStringsSep "\n    " said)
    );

  good = evaluate.cluster { };
in
lib.optional (good.refusals != [ ]) "the example cluster itself is refused: ${lib.concatStringsSep "; " good.refusals}"
++ lib.optional (good.warnings != [ ]) "the example cluster itself is warned of: ${lib.concatStringsSep "; " good.warnings}"
++ lib.concatLists (lib.mapAttrsToList (expect "refusals") refusals)
++ lib.concatLists (lib.mapAttrsToList (expect "warnings") warnings)
