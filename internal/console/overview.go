package console

import "time"

type overviewPage struct {
	Models int
}

func (c *Console) overview(q *Query) (*View, error) {
	var list struct {
		Models []struct{} `json:"models"`
	}
	if err := q.get("/admin/v1/models", &list); err != nil {
		return nil, err
	}
	return &View{Title: "Overview", Nav: "/console", Every: 2 * time.Second, Data: &overviewPage{Models: len(list.Models)}}, nil
}
