# What the modules ask about the cluster, worked out once from its attribute set.
{
  lib,
  cluster,
  node,
  secretsDirectory,
  sites,
}:
let
  ports = import ./ports.nix;
  ipv4 = import ./ipv4.nix { inherit lib; };
  nodes = lib.attrValues cluster.nodes; # sorted by name, so that every node derives the same lists
  withRole = role: lib.filter (n: lib.elem role n.roles) nodes;
  # A name outside the cluster has no role, so that evaluation reaches the assertion that says so.
  self =
    cluster.nodes.${node} or {
      name = node;
      address = "127.0.0.1";
      interface = "lo";
      roles = [ ];
    };
  secret = name: "${secretsDirectory}/${name}";
  # Names that site.pem carries beside the domain.
  certificateNames =
    cluster.aliases
    ++ lib.concatMap (site: site.names ++ site.aliases) (lib.filter (site: site.useClusterCertificate) (lib.attrValues sites));
  credential = unit: name: "/run/credentials/${unit}.service/${name}";
  nodeTls = unit: {
    ca = credential unit "ca.pem";
    certificate = credential unit "node.pem";
    key = credential unit "node.key";
  };
  # A file that a reload renews (service.nix).
  renewed = unit: name: "/run/${unit}/files/${name}";
in
{
  inherit
    nodes
    ports
    ipv4
    self
    secret
    credential
    renewed
    ;
  has = role: lib.elem role self.roles;

  balancers = withRole "balancer";
  apps = withRole "app";
  databases = withRole "database";
  monitors = withRole "monitoring";

  others = lib.filter (n: n.name != self.name);
  addresses = map (n: n.address);
  at = port: n: "${n.address}:${toString port}";
  local = port: "127.0.0.1:${toString port}";

  # Mutual TLS between nodes: the files as credentials of a unit (for service.nix), and the paths that the unit reads.
  nodeCredentials = lib.genAttrs [ "ca.pem" "node.pem" "node.key" ] secret;
  inherit nodeTls;

  # Operators' commands: each balancer and gateway tells all others (docs/trivet.md).
  control =
    unit: port:
    let
      own = "${self.address}:${toString port}";
      peer = program: port: n: {
        node = n.name;
        address = "${n.address}:${toString port}";
        inherit program;
      };
      all =
        map (peer "balancer" ports.balancerControl) (withRole "balancer")
        ++ map (peer "gateway" ports.gatewayControl) (withRole "app");
    in
    {
      state_file = "/var/lib/${unit}/orders.json";
      listen = own;
      peers = lib.filter (p: p.address != own) all;
      tls = nodeTls unit;
    };

  # An IPv4 address as a number: MySQL wants a number of its own for every server, and an address is one already.
  serverId = if ipv4.isAddress self.address then ipv4.number self.address else 1; # another is refused (problems.nix)

  # The cluster as the programs and the operator's command read it: /etc/trivet/cluster.json.
  file = {
    inherit (cluster) name domain;
    virtual_addresses = cluster.virtualAddresses;
    ca = secret "ca.pem";
    nodes = map (n: { inherit (n) name address roles; }) nodes;
  }
  // lib.optionalAttrs (certificateNames != [ ]) { certificate_names = certificateNames; };
}
