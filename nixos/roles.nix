[
  "balancer"
  "app"
  "database"
  "monitoring"
]
