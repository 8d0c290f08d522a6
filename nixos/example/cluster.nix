# The cluster of the README and of the tests: three machines, every role on each.
{
  services.trivet = {
    enable = true;
    cluster = {
      domain = "www.foobar.com";
      virtualAddresses = [ "10.77.0.50" ];
      groupName = "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001";
      administrators = [ "10.77.0.200/32" ];
      nodes = {
        node1.address = "10.77.0.11";
        node2.address = "10.77.0.12";
        node3.address = "10.77.0.13";
      };
    };
  };

  # A static file of the site, made when a node boots without it.
  systemd.tmpfiles.rules = [ "f /var/lib/trivet/www/robots.txt 0644 root root - User-agent: *\\nAllow: /\\n" ];
}
