"""The metrics of policies for Prometheus: the packets by rule, and what is enforced."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dstack_vpn.daemon.daemon import Daemon


def policy_families(node: Daemon) -> Iterator[Metric]:
    """Yield the metrics; only the first two without a policy."""
    members, counts = node.members, node.denied.counts
    selection, rules = members.policies.selection, members.policies.rules
    in_force = GaugeMetricFamily(
        "dstack_vpn_policy_in_force", "1 for each policy in force.", labels=["policy"]
    )
    for each in selection.in_force or ():
        in_force.add_metric([each.id], 1)
    yield in_force
    refused = "1 if the registry's policy can't be used, and the last good one stays in force."
    yield GaugeMetricFamily("dstack_vpn_policy_refused", refused, selection.refused is not None)
    if rules is None:
        return
    enforced = node.firewall_controller.is_settled and not members.admission.unenforced
    text = "1 if the packet filter has the newest rules."
    yield GaugeMetricFamily("dstack_vpn_policy_enforced", text, enforced)
    text = "Tunnel addresses with rights on this node."
    yield GaugeMetricFamily("dstack_vpn_policy_addresses", text, rules.size)
    packets = CounterMetricFamily(
        "dstack_vpn_policy_granted_packets", "Packets from members, by the grant.", labels=["policy", "grant"]
    )
    size = CounterMetricFamily(
        "dstack_vpn_policy_granted_bytes", "Bytes from members, by the grant.", labels=["policy", "grant"]
    )
    for grant, count in sorted(counts.granted.items()):
        packets.add_metric([grant.policy, str(grant.number)], count.packets)
        size.add_metric([grant.policy, str(grant.number)], count.bytes)
    yield packets
    yield size
    text = "Packets from the tunnel that no grant allows."
    yield CounterMetricFamily("dstack_vpn_policy_denied_packets", text, counts.denied.packets)
    text = "Bytes from the tunnel that no grant allows."
    yield CounterMetricFamily("dstack_vpn_policy_denied_bytes", text, counts.denied.bytes)
