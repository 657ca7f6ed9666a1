package supervisor

import "github.com/fdbroker/fdbroker/internal/epoll"

// source says which of a worker's descriptors an event is about.
type source uint8

const (
	fromProcess source = iota // the pidfd: the worker has ended
	fromReports               // the pipe that it reports to
	fromNotify                // the socket that it says READY=1 on
)

// ready names a descriptor that can be read: the worker's id, and the source in two bits.
type ready uint64

func readyOf(worker int64, from source) ready { return ready(worker)<<2 | ready(from) }

// poller waits for the descriptors of all workers.
type poller struct {
	*epoll.Poller
	batches chan []ready  // descriptors that can be read
	next    chan struct{} // takes one for each batch that was read
}

// newPoller returns a poller that runs. The caller must close it.
func newPoller() (*poller, error) {
	e, err := epoll.New("workers")
	if err != nil {
		return nil, err
	}
	p := &poller{Poller: e, batches: make(chan []ready), next: make(chan struct{})}
	go p.run()
	return p, nil
}

// run sends batches, each after the one before was read, because the events are level-triggered.
func (p *poller) run() {
	defer close(p.batches)
	var batch []ready
	for p.Wait(func(id uint64, _ uint32) { batch = append(batch, ready(id)) }) == nil {
		p.batches <- batch
		<-p.next
		batch = batch[:0]
	}
}

// close ends the poller and waits for its goroutine. No other goroutine may read batches.
func (p *poller) close() {
	p.Close()
	for {
		select {
		case _, open := <-p.batches:
			if !open {
				return
			}
		case p.next <- struct{}{}:
		}
	}
}
