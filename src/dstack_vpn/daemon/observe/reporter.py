"""Collection of the reports of all parts for health and metrics."""

from dataclasses import dataclass, replace

from dstack_vpn.core.observe.reports import FirewallReport, PolicyReport, Reports, StorageReport
from dstack_vpn.daemon.chain.quorum_checker import QuorumChecker
from dstack_vpn.daemon.chain.state import ChainState
from dstack_vpn.daemon.device.firewall import FirewallController
from dstack_vpn.daemon.device.key_expiry import KeyExpiry
from dstack_vpn.daemon.device.tunnel import Tunnel
from dstack_vpn.daemon.observe.audit_writer import AuditWriter
from dstack_vpn.daemon.observe.persistence import Persistence
from dstack_vpn.daemon.observe.rpc_usage import RpcUsage
from dstack_vpn.daemon.peers.exit_keeper import ExitKeeper
from dstack_vpn.daemon.peers.paths import Paths
from dstack_vpn.daemon.peers.removal_guard import MassRemovalGuard


@dataclass(frozen=True, slots=True)
class Reporter:
    """The parts that report."""

    started: float
    """Unix seconds."""
    chain: ChainState
    tunnel: Tunnel
    removal_guard: MassRemovalGuard
    paths: Paths
    persistence: Persistence
    audit_writer: AuditWriter
    quorum_checker: QuorumChecker | None
    key_expiry: KeyExpiry | None
    firewall_controller: FirewallController
    exit_keeper: ExitKeeper
    rpc_usage: RpcUsage
    unprotected: FirewallReport | None
    """The report if no packet filter keeps packets in the tunnel, or None."""

    def collect(self) -> Reports:
        """Return all reports as of now, without those of optional parts."""
        return Reports(
            started=self.started,
            chain=self.chain.report(),
            members=self.chain.members.report(),
            device=self.tunnel.report(held=len(self.removal_guard.held)),
            storage=StorageReport(self.persistence.problem, self.audit_writer.problem),
            quorum=None if self.quorum_checker is None else self.quorum_checker.report(),
            budget=self.rpc_usage.report(),
            early=self.chain.members.early.report(),
            key=None if self.key_expiry is None else self.key_expiry.report(),
            relays=self.paths.problems(),
            policy=self._policy(),
            exit=self.exit_keeper.report(),
            routes=self.chain.members.routes.report(),
            gateway=self.firewall_controller.forwarding_problem,
            firewall=self._firewall(),
        )

    def _firewall(self) -> FirewallReport:
        problem = self.firewall_controller.problem
        if self.unprotected is None:
            return FirewallReport(problem)
        return FirewallReport(problem, self.unprotected.unprotected, self.unprotected.by_choice)

    def _policy(self) -> PolicyReport | None:
        """Return a report; None if no policy restricts anything, and none was refused."""
        members = self.chain.members
        unenforced = self.firewall_controller.problem if members.admission.unenforced else None
        report = replace(members.policies.report(), unenforced=unenforced)
        return None if report == PolicyReport(in_force=None) else report
