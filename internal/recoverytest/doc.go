// Package recoverytest has tests, and nothing else: brokers that have lost everything get their listeners back from the
// workers that are left. They start both commands and real workers, and count what becomes of a steady load meanwhile.
package recoverytest
