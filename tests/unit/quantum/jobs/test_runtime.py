"""IBM's Runtime as a vendor of the queue: its fake machine runs the jobs, a service of the same methods keeps them."""

from types import SimpleNamespace

import numpy as np
import pytest
from qiskit_ibm_runtime import fake_provider
from quantum_work import work_of

from qfundus.errors import Retry, SetupError
from qfundus.quantum.backends import ibm
from qfundus.quantum.jobs import vendors
from qfundus.quantum.jobs.vendors import Runtime


class Service:
    """What we use of `QiskitRuntimeService`, over the fake machine's jobs, which know neither tags nor names."""

    def __init__(self):
        self.machine, self.kept, self.operational = fake_provider.FakeJakartaV2(), {}, True
        self.machine.status = lambda: SimpleNamespace(
            operational=self.operational, status_msg="resting", pending_jobs=3
        )

    def backend(self, name):
        assert name == "jakarta"
        return self.machine

    def job(self, name):
        return self.kept[name][1]

    def jobs(self, *, job_tags, limit):
        return [job for tags, job in self.kept.values() if set(job_tags) <= set(tags)][:limit]


@pytest.fixture
def runtime(monkeypatch):
    import qiskit_ibm_runtime

    assert ibm.EstimatorV2 is qiskit_ibm_runtime.EstimatorV2  # it has its own before the other is put there
    service, estimator = Service(), qiskit_ibm_runtime.EstimatorV2

    def keeping(mode, options):
        opened = estimator(mode=mode, options=options)
        run = opened.run

        def keep(pubs, precision):
            job = run(pubs, precision=precision)
            job.error_message = lambda: "it broke"
            # IBM's own options, which refuse a name that they do not know, say what would travel with the job.
            service.kept[job.job_id()] = opened.options.environment.job_tags, job
            return job

        opened.run = keep
        return opened

    monkeypatch.setattr(qiskit_ibm_runtime, "EstimatorV2", keeping)
    described = {"there": {"through": "ibm", "machine": "jakarta", "price": {"task": 1.0, "shot": 0.5}}}
    monkeypatch.setattr(vendors, "read_backends", lambda: described)
    return Runtime("there", service), service


def test_a_batch_is_sent_found_by_its_token_and_collected(runtime):
    vendor, _ = runtime
    works = [work_of(0, precision=0.02), work_of(1, precision=0.02)]
    sent = vendor.submit(works, "a-token")
    assert vendor.find("a-token") == sent
    assert vendor.find("another") is None
    found = vendor.collect(sent)
    assert vendor.look(sent) == ("done", "")
    assert [estimates.values.shape for estimates in found] == [(2, 3), (2, 3)]
    assert np.abs(found[0].values).max() <= 1.2


def test_its_queue_its_calibration_and_its_rest_are_told(runtime):
    vendor, service = runtime
    offer = vendor.offer()
    assert (offer.qubits, offer.wait, offer.price.cost(2, 10)) == (7, 180.0, 6.0)
    assert 0 < offer.error < 0.1
    assert offer.calibration.startswith("fake_jakarta 20")
    service.operational = False
    with pytest.raises(Retry, match="resting"):
        vendor.offer()


@pytest.mark.parametrize("asked", [{"mitigation": {"twirls": 8}}, {"mode": "session"}])
def test_what_the_queue_does_not_do_is_refused_and_not_left_out(asked, monkeypatch):
    monkeypatch.setattr(vendors, "read_backends", lambda: {"there": {"through": "ibm", "machine": "jakarta", **asked}})
    with pytest.raises(SetupError, match=f"take {next(iter(asked))} out of it"):
        Runtime("there", Service())
