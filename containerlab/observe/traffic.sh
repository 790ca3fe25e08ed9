#!/bin/sh
# Made by: go generate ./topologies. Sends data from every host to hub-host: traffic.sh start, traffic.sh stop
case $1 in
start)
  docker exec clab-observe-hub-host iperf3 --server --daemon --port 5201 --pidfile /run/traffic-spoke1-host.pid
  docker exec --detach clab-observe-spoke1-host iperf3 --client 10.1.0.10 --port 5201 --time 0 --bitrate 2M --pidfile /run/traffic-spoke1-host.pid
  docker exec clab-observe-hub-host iperf3 --server --daemon --port 5202 --pidfile /run/traffic-spoke2-host.pid
  docker exec --detach clab-observe-spoke2-host iperf3 --client 10.1.0.10 --port 5202 --time 0 --bitrate 4M --pidfile /run/traffic-spoke2-host.pid
  ;;
stop)
  docker exec clab-observe-spoke1-host sh -c 'kill $(cat /run/traffic-spoke1-host.pid)'
  docker exec clab-observe-hub-host sh -c 'kill $(cat /run/traffic-spoke1-host.pid)'
  docker exec clab-observe-spoke2-host sh -c 'kill $(cat /run/traffic-spoke2-host.pid)'
  docker exec clab-observe-hub-host sh -c 'kill $(cat /run/traffic-spoke2-host.pid)'
  ;;
*)
  echo "usage: $0 start|stop" >&2
  exit 2
  ;;
esac
