# A second site, a pool beside the web tiers, and routes: what docs/sites.md shows, as options. Beside cluster.nix.
{
  services.trivet = {
    cluster.aliases = [ "foobar.com" ]; # redirected to www.foobar.com

    # The site of cluster.domain.
    routes = [
      {
        name = "old-shop";
        path_prefix = "/shop";
        redirect = {
          to = "https://shop.foobar.com$rest";
          status = 301;
        };
      }
      {
        name = "api";
        path_prefix = "/api";
        pool = "api";
        rewrite = "/v2$rest"; # /api/users?page=1 → /v2/users?page=1
      }
      {
        path_prefix = "/admin";
        clients = [ "192.0.2.0/24" ];
        pool = "web";
      }
      {
        path_prefix = "/admin"; # everybody else
        refuse = 403;
      }
    ];

    # A name that no site has is answered by that one, and not with 421.
    defaultSite = "main";

    sites.shop = {
      names = [ "shop.foobar.com" ];
      aliases = [ "store.foobar.com" ];
      certificates = [
        {
          certificate = "/var/lib/acme/shop.foobar.com/fullchain.pem";
          key = "/var/lib/acme/shop.foobar.com/key.pem";
        }
      ];
      pool = "shop";
      limits.request_rate = {
        # of one client
        rate = 20;
        burst = 100;
      };
    };
    sites.blog = {
      names = [ "blog.foobar.com" ];
      useClusterCertificate = true; # and the pool web: the app is told the host
      routes = [
        {
          path = "/robots.txt";
          answer.content = "User-agent: *\nDisallow: /drafts\n";
        }
      ];
    };

    pools.api = {
      backends = {
        api1 = "10.77.0.21:8080";
        api2 = "10.77.0.22:8080";
      };
      tls = "cluster"; # their certificates are the cluster's own
      response_timeout = "10s";
      health.path = "/alive";
    };
    pools.shop = {
      backends = [
        {
          name = "shop1";
          address = "10.77.0.31:8443";
          server_name = "shop1.internal";
        }
      ];
      tls = {
        ca = "/var/lib/trivet/shop/ca.pem";
        certificate = "/var/lib/trivet/shop/balancer.pem";
        key = "/var/lib/trivet/shop/balancer.key";
      };
    };
  };
}
