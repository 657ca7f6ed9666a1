package holders_test

import (
	"testing"

	"github.com/fdbroker/fdbroker/internal/fdtest"
)

func TestMain(m *testing.M) { fdtest.Main(m, nil) }
