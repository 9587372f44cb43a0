"""Collects the reports of all parts, when health or metrics ask."""

from dataclasses import dataclass

from dstack_vpn.core.observe.reports import FirewallReport, Reports, StorageReport
from dstack_vpn.daemon.chain.quorum_checker import Jury
from dstack_vpn.daemon.chain.state import ChainState
from dstack_vpn.daemon.device.firewall import Gate
from dstack_vpn.daemon.device.key_expiry import Renewal
from dstack_vpn.daemon.device.tunnel import Tunnel
from dstack_vpn.daemon.observe.audit_writer import Auditor
from dstack_vpn.daemon.observe.persistence import Recorder
from dstack_vpn.daemon.peers.paths import Paths
from dstack_vpn.daemon.peers.removal_guard import Brake


@dataclass(frozen=True, slots=True)
class Reporter:
    """The parts that report."""

    started: float
    """Unix seconds."""
    chain: ChainState
    tunnel: Tunnel
    brake: Brake
    paths: Paths
    recorder: Recorder
    auditor: Auditor
    jury: Jury | None
    renewal: Renewal | None
    gate: Gate | None
    unprotected: FirewallReport | None
    """What is reported if no packet filter keeps packets in the tunnel."""

    def collect(self) -> Reports:
        """Return all reports as of now, without those of optional parts."""
        return Reports(
            started=self.started,
            chain=self.chain.report(),
            members=self.chain.members.report(),
            device=self.tunnel.report(held=len(self.brake.held)),
            storage=StorageReport(self.recorder.problem, self.auditor.problem),
            quorum=None if self.jury is None else self.jury.report(),
            key=None if self.renewal is None else self.renewal.report(),
            relays=self.paths.problems(),
            firewall=self._firewall(),
        )

    def _firewall(self) -> FirewallReport | None:
        if self.unprotected is not None:
            problem = None if self.gate is None else self.gate.problem
            return FirewallReport(problem, self.unprotected.unprotected, self.unprotected.by_choice)
        return None if self.gate is None else FirewallReport(self.gate.problem)
