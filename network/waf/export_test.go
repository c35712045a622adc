package waf

import (
	"strconv"

	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
)

// CoreScore is the anomaly score of r by the rule set's own sums.
func CoreScore(e *Engine, r *Request) (int, error) {
	c, err := e.compiled()
	if err != nil {
		return 0, err
	}
	tx := c.waf.NewTransactionWithID("-")
	defer func() { _ = tx.Close() }()
	head(tx, r)
	tx.ProcessRequestHeaders()
	if err := body(tx, r.Body); err != nil {
		return 0, err
	}
	return strconv.Atoi(tx.(plugintypes.TransactionState).Variables().TX().Get("blocking_inbound_anomaly_score")[0])
}
